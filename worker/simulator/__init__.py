"""An EnOS gateway to rehearse and test against, which keeps the truth of what it executed.

It shares no code with the worker's own client: token, signature and expressions are checked
here from the protocol's rules alone, so that a mistake on one side cannot hide on the other.
"""
