# In a guest: makes the incident $incident and prints its recording. The recorder sees the host 10.0.1.7 only; the others, on the
# loopback device too, stand for the rest of a network.
hostname shop-3
ip addr add 10.0.1.7/32 dev lo
for net in 10.0.5.12/32 10.0.5.30/32 10.0.9.0/24; do
    ip route add local $net dev lo src 10.0.1.7 table local
done
for name in nginx browser postgres checkout inventory orders; do
    cp /bin/incident /tmp/$name
done
/tmp/nginx serve 10.0.1.7:443 &
/tmp/browser browse 10.0.1.7:443 --from 10.0.9.11 --clients 6 &
case $incident in
ports)
    echo '32768 33767' >/proc/sys/net/ipv4/ip_local_port_range
    /tmp/postgres serve 10.0.5.12:5432 &
    sleep 2
    /tmp/checkout call 10.0.5.12:5432 --rate 8 --later-rate 70 --after-seconds 12 &
    ;;
close-wait)
    /tmp/inventory serve 10.0.5.30:8080 --idle-seconds 4 &
    sleep 2
    /tmp/orders leak 10.0.5.30:8080 --rate 8 &
    ;;
esac
tcptrace record --local 10.0.1.7 --duration 36s --output /tmp/sample
echo 'sample: begin'
base64 /tmp/sample
echo 'sample: end'
