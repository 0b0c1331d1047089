"""FashionMNIST."""
