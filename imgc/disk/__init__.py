"""From a tree of files to the images that clouds take.  No loop device, no mount, no root needed.

:mod:`~imgc.disk.layout` says where everything lies, :mod:`~imgc.disk.assemble` writes the raw disk,
:mod:`~imgc.disk.convert` and :mod:`~imgc.disk.archive` make the outputs, and :mod:`~imgc.disk.check` reads them
back.
"""
