"""The proof that a disk image boots: QEMU, a config drive, and what the guest says over SSH."""
