#!/bin/busybox sh
# The first process of the VM. Makes a small Linux with cgroup v2 and every controller, runs /main.sh on the second serial
# port, and ends the machine.
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root TERM=vt100
/bin/busybox mkdir -p /usr/sbin /proc /sys /dev /tmp /run /root /mnt /var/lib /var/tmp
# No symbolic links: what is taken into a chroot is a file for each.
/bin/busybox --install
# Not mounted over: the work tree, whose programs lie at their paths, may be below it.
chmod 1777 /tmp /var/tmp

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
# What the tests do on purpose, as out of memory, is no news.
dmesg -n 1

# What is missing is said where the tests are heard.
missing() {
    echo "vm: there is no $*" > /dev/ttyS1
}

# One at a time, so that one that this kernel does not know costs no other.
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control || missing "controller $controller"
done

# Disks in the kernel's memory: nullb0 for io limits and weights, nullb1 for swap.
. /modules.sh
# The cost model gives io.weight its meaning without another scheduler.
echo "$(cat /sys/block/nullb0/dev) enable=1" > /sys/fs/cgroup/io.cost.qos || missing "cost model of io"
mkswap /dev/nullb1 > /dev/null && swapon /dev/nullb1 || missing swap

hostname vm
ip link set lo up

sh /main.sh < /dev/ttyS1 > /dev/ttyS1 2>&1
poweroff -f
