//! A new template replaces media nodes one at a time and stops when it does not come up.
