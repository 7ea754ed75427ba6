"""Programs that tests start by `tests.helpers.processes`, alone or on several ranks.

What a program has found it prints as one line of JSON, after the word RESULT, or leaves in files of its folder.
"""
