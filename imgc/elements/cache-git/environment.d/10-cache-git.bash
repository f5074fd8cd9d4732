# Where the trees are in the image.
export DIB_CACHE_GIT_DIRECTORY=${DIB_CACHE_GIT_DIRECTORY:-/opt/git}
