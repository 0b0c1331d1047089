"""Finding a learning rate: how curved the loss is, and what that allows."""
