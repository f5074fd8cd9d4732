"""The engine runs a graph: scheduler, layer store, sandbox, hook protocol, events.

Read :mod:`imgc.engine.run` first (the main loop), then :mod:`imgc.engine.step_runner` (what one step does),
:mod:`imgc.engine.sandbox` (where it does it) and :mod:`imgc.engine.store` (where its result goes).
"""
