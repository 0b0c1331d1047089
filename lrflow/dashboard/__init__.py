"""`lrflow dashboard`: runs and sweeps below a folder in the browser, with the curves of runs that are going on."""
