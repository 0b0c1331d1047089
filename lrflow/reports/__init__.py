"""Pages and figures for people: range tests and sweeps."""
