# The removable-path loader is known for these machines.
if [[ "$ARCH" != "amd64" && "$ARCH" != "arm64" ]]; then
    echo "block-device-efi boots amd64 and arm64 only, not $ARCH"
    exit 1
fi

export DIB_BLOCK_DEVICE=efi
