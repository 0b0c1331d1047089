"""The tasks: `task=NAME` calls `run(config)` of the module NAME; the other modules are shared by the tasks."""
