"""Images in folders or in a list."""
