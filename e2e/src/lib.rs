//! Test bed, headless participants, load, measurements.
