"""What more than one test file is made with, a file for each thing: models, rows, tokenizers, runs, stand-ins.

No test file imports another one. What pytest hands to tests, the fixtures, stands in the `conftest.py` of a folder;
what runs in processes of its own stands in `programs`.
"""
