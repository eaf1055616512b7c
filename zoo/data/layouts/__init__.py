"""How public sets lie on disk once unpacked: one file each, found by the entry point group ``zoo.layouts``."""
