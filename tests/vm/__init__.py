"""Other kernels, in virtual machines; see README.md beside this file."""
