//! Hand-built tile programs, executed and checked against plain loops in f64.

mod attention;
mod build;
mod control;
mod elementwise;
mod errors;
mod products;
mod softmax;
mod transfers;
mod weighted;
