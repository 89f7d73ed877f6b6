"""Tables and files of the lake: create, validate, pin, publish."""
