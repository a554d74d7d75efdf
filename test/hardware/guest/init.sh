#!/bin/busybox sh
# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
#
# First process of the guest: makes the host's files, read-only, its root, and runs the exercise.
# What the kernel does not know of its command line (MUSTER_…) is in the environment.
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do
  case $module in *i2c-stub.ko) parameters=chip_addr=0x48;; *) parameters=;; esac
  insmod "$module" $parameters || echo "cannot load $module"
done
mount -t configfs configfs /sys/kernel/config
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=524288 host /host || poweroff -f
for folder in proc sys dev; do mount --move /$folder /host/$folder; done
mount -t tmpfs tmpfs /host/run
cp /library.zip /host/run
export PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1
# -S: without what the site's packages run at every start.
chroot /host "$MUSTER_PYTHON" -S -P -m inside
poweroff -f
