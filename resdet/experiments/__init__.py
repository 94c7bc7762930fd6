"""Models, data and the engine, joined: train, evaluate, alternate, propose, study.

An experiment takes a config and returns what came out. It reports its progress to the logger "resdet", from every
process; the command line shows what the main process reports.
"""
