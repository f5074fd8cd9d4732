# imgc says DISTRO_NAME and DIB_RELEASE, from the spec; with the stock driver whoever calls it does.
export DIB_INIT_SYSTEM=${DIB_INIT_SYSTEM:-systemd}
if [[ "${DISTRO_NAME:-}" == "ubuntu" && "${DIB_RELEASE:-}" == "trusty" ]]; then
    export DIB_INIT_SYSTEM=upstart
fi
export EFI_BOOT_DIR=${EFI_BOOT_DIR:-EFI/${DISTRO_NAME:-}}
export YUM=${YUM:-dnf}
if [[ "${DISTRO_NAME:-}" =~ ^(centos|rhel)$ && "${DIB_RELEASE:-}" == 7* ]]; then
    export YUM=yum
fi
