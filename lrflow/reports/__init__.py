"""What people look at: pages and pictures made of what run folders say."""
