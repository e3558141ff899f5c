#!/bin/busybox sh
# The first process of the guest. Its results are lines on the serial console.
/bin/busybox --install -s /bin
export PATH=/bin TCPTRACE_BIN=/bin/tcptrace TCPTRACE_EMULATED=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs tmp /tmp
for module in @MODULES@; do
    insmod "/modules/$module.ko"
done
ip link set lo up
echo "vm: release $(uname -r)"

tcptrace states --json >/tmp/states &&
    tcptrace states --by service >>/tmp/states &&
    tcptrace states --explain >>/tmp/states
echo "vm: states exit $?"
tcptrace check --json >/tmp/check
can_trace=$?
echo "vm: check exit $can_trace"
echo "vm: check $(cat /tmp/check)"
[ $can_trace = 0 ] && sh /script
echo "vm: end"
poweroff -f
