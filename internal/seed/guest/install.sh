#!/bin/sh
# Installs the Millpond agent from the disk that this file is on, unless the
# image has one.
set -eu
from=$(dirname "$0")
agent=/usr/sbin/millpond-agent
unit=/etc/systemd/system/millpond-agent.service

if [ -x "$agent" ]; then
	exit 0
fi
cp "$from/millpond-agent" "$agent.new"
chmod 0755 "$agent.new"
mv "$agent.new" "$agent"
# The usual command of generalization, unless the image has Azure's own agent.
if ! command -v waagent >/dev/null 2>&1; then
	ln -s millpond-agent /usr/sbin/waagent
fi
if command -v restorecon >/dev/null 2>&1; then
	restorecon "$agent" || true
fi
if [ -d /run/systemd/system ]; then
	cp "$from/millpond-agent.service" "$unit"
	chmod 0644 "$unit"
	systemctl daemon-reload
	systemctl enable millpond-agent.service
	# This script is itself part of the boot; waiting would be a deadlock.
	systemctl start --no-block millpond-agent.service
else
	nohup "$agent" >/var/log/millpond-agent.log 2>&1 </dev/null &
fi
