# Makes an incident in a network namespace of its own, and draws the dashboard over it: in, $programs, the folder of tcptrace and
# incident, and the page in this folder; out, dashboard.png. As in the samples, tcptrace sees the host 10.0.1.7 only; the other
# addresses, on the loopback device too, stand for the rest of a network.
set -eu
if [ "${1-}" != inside ]; then
    # Fails where there is one, such as after a run that was killed: `ip netns delete shop`.
    ip netns add shop
    exec nsenter --net=/run/netns/shop bash "$0" inside
fi
trap 'kill $(jobs -p) || true; wait; ip netns delete shop' EXIT
trap 'exit 1' INT TERM

ip link set lo up
ip addr add 10.0.1.7/32 dev lo
for net in 10.0.5.12/32 10.0.5.30/32 10.0.9.0/24; do
    ip route add local $net dev lo src 10.0.1.7 table local
done
echo '32768 36767' >/proc/sys/net/ipv4/ip_local_port_range
for name in nginx api browser postgres checkout inventory orders; do
    cp "$programs/incident" $name
done
cat >prometheus.yml <<'END'
global: {scrape_interval: 5s}
scrape_configs:
- {job_name: tcptrace, static_configs: [{targets: ['127.0.0.1:9435'], labels: {instance: shop-3}}]}
END
rm -rf tsdb dashboard.png
"$programs/tcptrace" serve --filter 'netns shop and local 10.0.1.7' &
prometheus --config.file=prometheus.yml --storage.tsdb.path=tsdb --web.listen-address=127.0.0.1:9090 2>prometheus.log &

# The panels begin when the first TIME_WAITs have ended, a third of a minute after a full one: for the labels of the axis.
until_panels=$((140 - $(date +%s) % 60))
# A server that closes first, and one whose clients do.
./nginx serve 10.0.1.7:443 --requests 20 &
./api serve 10.0.1.7:8080 &
./postgres serve 10.0.5.12:5432 &
./inventory serve 10.0.5.30:8080 --idle-seconds 4 &
sleep 1
./browser browse 10.0.1.7:443 --from 10.0.9.11 --clients 60 &
./browser browse 10.0.1.7:8080 --from 10.0.9.101 --clients 40 &
./checkout call 10.0.5.12:5432 --rate 25 --later-rate 120 --after-seconds $((until_panels + 120)) &
sleep $((until_panels - 1))
from=$(date +%s)
sleep 80
./orders leak 10.0.5.30:8080 --rate 1 &
sleep 160

# Its icons.
mkdir -p public
ln -sfn ../node_modules/@grafana/ui/dist/public public/build
page="file://$PWD/index.html?prometheus=http://127.0.0.1:9090&from=$from&to=$(date +%s)&step=5&rows=33"
chromium --headless --no-sandbox --hide-scrollbars --allow-file-access-from-files --window-size=1200,1262 \
    --virtual-time-budget=20000 --screenshot=dashboard.png --dump-dom "$page" 2>chromium.log >drawn.html
if ! grep -q '<canvas' drawn.html; then
    grep Error drawn.html chromium.log >&2
    exit 1
fi
