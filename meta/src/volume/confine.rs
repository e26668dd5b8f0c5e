//! The one decision of what a session may touch (P2). Every operation gets
//! its inodes as [`Reached`], which only this file can make.

use std::ops::ControlFlow;

use flexfs_common::ids::Ino;
use flexfs_common::name::DentryName;
use flexfs_common::{Code, Error, Result};

use super::context::Context;
use super::dentry::{self, Found};
use super::keys::u64_at;
use super::record::Inode;
use super::scope::ScopeRoot;
use super::view::View;

/// Directories above one another: beyond this the tree has a loop.
const DEPTH_MAX: usize = 1 << 20;

/// What an operation names by handle.
#[derive(Clone, Copy, Debug)]
pub(super) enum Touch<'a> {
    /// No inode.
    Nothing,
    /// One inode.
    One(&'a [u8]),
    /// Two inodes, perhaps the same.
    Two(&'a [u8], &'a [u8]),
    /// Rows of the session itself, kept by inode: it may let go of what has
    /// left its scope.
    Own(&'a [u8]),
}

/// An inode that the session may touch, as it was when it was reached.
#[derive(Clone, Debug)]
pub(super) struct Reached {
    ino: Ino,
    inode: Inode,
}

impl Reached {
    pub(super) fn ino(&self) -> Ino {
        self.ino
    }

    pub(super) fn inode(&self) -> &Inode {
        &self.inode
    }

    /// # Errors
    /// `FS_NOT_DIRECTORY`, or `FS_NOT_FOUND` when the directory was removed.
    pub(super) fn need_dir(&self) -> Result<()> {
        if !self.inode.is_dir() {
            return Err(Code::FsNotDirectory.into());
        }
        if self.inode.nlink == 0 {
            return Err(Code::FsNotFound.into());
        }
        Ok(())
    }
}

/// What an operation may touch.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one per operation, handed on at once")]
pub(super) enum Admitted {
    Nothing,
    One(Reached),
    Two(Reached, Reached),
    Own(Ino),
}

impl Admitted {
    fn wrong<T>() -> Result<T> {
        Err(Error::new(Code::Internal, "an operation asks for more than it named"))
    }

    pub(super) fn one(self) -> Result<Reached> {
        if let Admitted::One(reached) = self { Ok(reached) } else { Admitted::wrong() }
    }

    pub(super) fn two(self) -> Result<(Reached, Reached)> {
        if let Admitted::Two(a, b) = self { Ok((a, b)) } else { Admitted::wrong() }
    }

    /// The one inode, whether it lies inside or is merely let go of.
    pub(super) fn ino(self) -> Result<Ino> {
        match self {
            Admitted::One(reached) => Ok(reached.ino),
            Admitted::Own(ino) => Ok(ino),
            Admitted::Nothing | Admitted::Two(..) => Admitted::wrong(),
        }
    }

    pub(super) fn own(self) -> Result<Ino> {
        if let Admitted::Own(ino) = self { Ok(ino) } else { Admitted::wrong() }
    }
}

/// Decides for an operation.
///
/// # Errors
/// `FS_STALE` when something it names is out of reach, for whatever reason.
pub(super) fn admit(ctx: &Context<'_>, view: View<'_>, touch: Touch<'_>) -> Result<Admitted> {
    Ok(match touch {
        Touch::Nothing => Admitted::Nothing,
        Touch::One(handle) => Admitted::One(reach(ctx, view, handle)?),
        Touch::Two(a, b) => Admitted::Two(reach(ctx, view, a)?, reach(ctx, view, b)?),
        Touch::Own(handle) => Admitted::Own(ctx.session.handles.check(handle)?),
    })
}

/// The inode of a handle, if it lies inside the session's scope: a directory
/// with the scope's root among its ancestors, another inode with a link in
/// such a directory, or one without links that this session holds open.
fn reach(ctx: &Context<'_>, view: View<'_>, handle: &[u8]) -> Result<Reached> {
    let ino = ctx.session.handles.check(handle)?;
    let inode = view.inode(ino)?.ok_or(Code::FsStale)?;
    let inside = if inode.nlink == 0 {
        view.held_open_by(ino, ctx.session.id)?
    } else {
        match &ctx.session.confined {
            None => true,
            Some(scope) if inode.is_dir() => dir_is_inside(ctx, view, scope, ino, &inode)?,
            Some(scope) => any_link_is_inside(ctx, view, scope, ino)?,
        }
    };
    if inside { Ok(Reached { ino, inode }) } else { Err(Code::FsStale.into()) }
}

fn dir_is_inside(
    ctx: &Context<'_>,
    view: View<'_>,
    scope: &ScopeRoot,
    dir: Ino,
    inode: &Inode,
) -> Result<bool> {
    let mut walked = Vec::new();
    let (mut at, mut parent) = (dir, Ino(inode.parent));
    while at != scope.ino && !scope.knows(at) {
        walked.push(at);
        if at == parent {
            return Ok(false);
        }
        if walked.len() > DEPTH_MAX {
            return Err(Error::new(
                Code::EngineFailed,
                format!("directory {dir} has a loop above"),
            ));
        }
        at = parent;
        if at == scope.ino {
            break;
        }
        parent = Ino(view.inode_named(at)?.parent);
    }
    scope.remember(ctx.scope_epoch, &walked);
    Ok(true)
}

fn any_link_is_inside(
    ctx: &Context<'_>,
    view: View<'_>,
    scope: &ScopeRoot,
    ino: Ino,
) -> Result<bool> {
    let mut inside = false;
    let mut before = None;
    view.scan(&view.keys.backs(ino), &mut |key, _| {
        let parent = u64_at(key, 8).map(Ino);
        if let Some(parent) = parent
            && before.replace(parent) != Some(parent)
        {
            inside = parent == scope.ino
                || dir_is_inside(ctx, view, scope, parent, &view.inode_named(parent)?)?;
        }
        Ok(if inside { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(inside)
}

/// An entry of a directory that was reached, and its inode: what a directory
/// inside names is inside.
pub(super) fn child(
    ctx: &Context<'_>,
    view: View<'_>,
    dir: &Reached,
    name: &DentryName,
) -> Result<Option<(Found, Reached)>> {
    ctx.searches(dir.ino);
    let Some(found) = dentry::find(view, &ctx.identity.order, dir.ino, name)? else {
        return Ok(None);
    };
    let inode = view.inode_named(found.ino)?;
    let reached = Reached { ino: found.ino, inode };
    Ok(Some((found, reached)))
}

/// A directory and everything above it, up to the volume's root.
///
/// # Errors
/// `ENGINE_FAILED` when the tree is damaged.
pub(super) fn ancestors(view: View<'_>, dir: Ino) -> Result<Vec<Ino>> {
    let mut walked = Vec::new();
    let mut at = dir;
    loop {
        walked.push(at);
        let parent = Ino(view.inode_named(at)?.parent);
        if parent == at {
            return Ok(walked);
        }
        if walked.len() > DEPTH_MAX {
            return Err(Error::new(
                Code::EngineFailed,
                format!("directory {dir} has a loop above"),
            ));
        }
        at = parent;
    }
}
