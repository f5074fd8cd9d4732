# BIOS boot code needs an x86 machine.
if [[ "$ARCH" != "amd64" && "$ARCH" != "i386" ]]; then
    echo "block-device-mbr boots amd64 and i386 only, not $ARCH; use block-device-efi"
    exit 1
fi

export DIB_BLOCK_DEVICE=mbr
