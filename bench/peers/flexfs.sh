#!/bin/bash
# flexfs as built here (`cargo xtask bins --release`): admin on SQLite, meta with the embedded engine, objects in a local directory,
# TLS on, everything by default; one token of the whole volume. FLEXFS_BINS names another directory of binaries.
. "$(dirname "$0")/common.sh"
BINS=${FLEXFS_BINS:-$(cd "$HERE/.." && cargo xtask bins --release 2>>$R/log/flexfs.log | tail -n 1)}
PATH=$BINS:$PATH; export FLEXFS_HOME=$SRV/home
ADMIN=127.0.0.1:7491; META=127.0.0.1:7492
setup() {
  umask 077; mkdir -p $FLEXFS_HOME $SRV/blocks
  { admin.flexfs start --bindAddr $ADMIN &&
    configure.flexfs init creds --adminAddr $ADMIN --tokenFile $FLEXFS_HOME/admin/root.token &&
    configure.flexfs create block-store disk --kind dir --path $SRV/blocks &&
    configure.flexfs create meta-store here --address $META >$SRV/meta.token &&
    meta.flexfs init creds --adminAddr $ADMIN --tokenFile $SRV/meta.token &&
    meta.flexfs start --bindAddr $META &&
    configure.flexfs create volume bench --metaStoreID here --blockStoreID disk >$SRV/volume.token &&
    mount.flexfs init creds bench --adminAddr $ADMIN --tokenFile $SRV/volume.token; } >>$R/log/$PEER.log 2>&1; }
MOUNT="mount.flexfs start bench $MNT"; UMOUNT="mount.flexfs stop $MNT"
# The run files (JSON with a "pid") say which daemons are ours.
teardown() {
  mountpoint -q $MNT && mount.flexfs stop $MNT; mountpoint -q $MNT && umount -l $MNT
  for tier in meta admin; do pid=$(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' $FLEXFS_HOME/$tier/run 2>/dev/null); [ -n "$pid" ] && kill $pid && PIDS="$PIDS $pid"; done
  stop_pids; rm -rf $SRV; }
main "$@"
