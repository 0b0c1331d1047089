"""Finding the learning rate: range tests, trial runs and the stability bound."""
