"""Tests of Triton kernels that Triton interprets on the host; ../test_interpreted.py runs them."""
