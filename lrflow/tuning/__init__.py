"""Finding the learning rate, by range tests, trial runs and the stability bound; and the batch size."""
