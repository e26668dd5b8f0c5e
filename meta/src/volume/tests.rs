//! Tests of the volume through [`Volume::execute`], on each engine.

mod basic;
mod fixture;
