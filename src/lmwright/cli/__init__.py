"""The same things with a prompt; here the application is put together."""
