"""Where the metrics of a run go: metrics.csv and dashboards."""
