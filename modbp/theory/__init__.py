"""Closed forms and simulators: the theorems as code, without any network of ours."""
