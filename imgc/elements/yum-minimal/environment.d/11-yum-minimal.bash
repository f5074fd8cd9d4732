# CentOS 7 has no dnf; its element means the later ones.
if [[ "$DISTRO_NAME" == centos && "$DIB_RELEASE" == 7 ]]; then
    export YUM=yum
fi
