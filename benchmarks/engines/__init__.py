"""The engines that the benchmarks measure, one adapter a file, each run by :mod:`benchmarks.engines.host`.

An adapter is imported by the Python that has its engine, in a process of its own, so it imports nothing of apiary_df
but where apiary_df is the engine. What starts these processes and speaks with them is :mod:`benchmarks.engines.client`.
"""
