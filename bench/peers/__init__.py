"""One way of sending the calls a module; each is run as a process of its own."""
