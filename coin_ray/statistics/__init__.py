"""The statistics of a study: intervals, paired tests, power, effects of factors, data sets.

Pure functions of NumPy arrays, seeded where they draw. The three sources of spread stay apart: an
array is (images, random seeds) of one data set, and no test takes images x seeds for independent
observations.
"""
