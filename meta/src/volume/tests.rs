//! Tests of the volume through [`super::Volume::execute`], on each engine.

mod accesses;
mod acl;
mod basic;
mod confinement;
mod contents;
mod data_model;
mod fixture;
mod keeping;
mod life;
mod locks;
mod making;
mod model;
mod nameless;
mod rename;
mod restoring;
mod rights;
mod sealing;
mod sessions;
mod space;
mod writing;
mod xattrs;
