//! Tests of the volume through [`super::Volume::execute`], on each engine.

mod basic;
mod confinement;
mod contents;
mod fixture;
mod locks;
mod rename;
mod rights;
mod sessions;
mod xattrs;
