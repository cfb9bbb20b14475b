"""The forms in which a plan is executed, one file each."""

from fusedsplit import _registration

_registration.require_tensorflow()
