"""Commands for programs that act for a user: tools of an MCP server and a skill file, made from the commands."""
