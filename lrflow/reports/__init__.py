"""Reports for people: the pages and figures of range tests and sweeps, and the runs below a folder."""
