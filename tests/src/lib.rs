//! Integration and file tests.
