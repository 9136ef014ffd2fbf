"""The command line. Commands are loaded when they are called, so that help answers at once."""
