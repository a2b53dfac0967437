#!/bin/sh
# Makes a small Debian root file system of the programs of this machine, with a local package repository in it: serve_root.sh DIRECTORY
set -e
R=$1
mkdir -p $R/usr/bin $R/usr/sbin $R/usr/lib $R/usr/lib64 $R/etc/apt/apt.conf.d $R/etc/apt/trusted.gpg.d $R/etc/pam.d $R/tmp $R/root $R/home/user $R/proc $R/dev $R/sys $R/run $R/opt/repo \
  $R/var/lib/dpkg/info $R/var/lib/dpkg/updates $R/var/lib/dpkg/triggers $R/var/lib/apt/lists/partial $R/var/cache/apt/archives/partial $R/var/log/apt $R/var/tmp $R/usr/share/dpkg
for d in bin sbin lib lib64; do ln -s usr/$d $R/$d; done
chmod 1777 $R/tmp $R/var/tmp
copy() { mkdir -p "$R$(dirname "$1")"; cp -L "$1" "$R$1"; }
for p in bash sh dash cat ls id chown chmod mkdir rm rmdir touch stat test true sleep mv cp ln mktemp install grep sed tar dpkg dpkg-deb dpkg-split dpkg-query dpkg-statoverride dpkg-trigger dpkg-maintscript-helper dpkg-divert apt-get apt-config diff find xargs env head tail wc tr sort uname dirname basename readlink su useradd groupadd ldconfig ldconfig.real start-stop-daemon gpgv perl; do
  for f in /usr/bin/$p /usr/sbin/$p; do [ ! -e $f ] || copy $f; done
done
cp -rL /usr/lib/apt $R/usr/lib/
mkdir -p $R/usr/share/dpkg; cp -L /usr/share/dpkg/* $R/usr/share/dpkg/ 2>/dev/null || true
S=$(dirname "$(find /usr/lib -name pam_rootok.so | head -1)")
for m in pam_rootok pam_permit pam_deny pam_unix; do copy $S/$m.so; done
for f in $(find $R/usr -type f); do ldd "$f" 2>/dev/null || true; done | grep -o '/[^ ]*' | sort -u | while read l; do
  r=$(readlink -f "$(dirname "$l")"); copy "$r/$(basename "$l")"; done
printf 'root:x:0:0:root:/root:/bin/bash\n_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\nuser:x:1000:1000:user:/home/user:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n' > $R/etc/passwd
printf 'root:x:0:\nuser:x:1000:\nusers:x:100:\nnogroup:x:65534:\n' > $R/etc/group
printf 'auth sufficient pam_rootok.so\nauth required pam_deny.so\naccount required pam_permit.so\npassword required pam_permit.so\nsession required pam_permit.so\n' > $R/etc/pam.d/other
: > $R/var/lib/dpkg/status; : > $R/var/lib/dpkg/available
# A package with a file of another owner, a directory, and a script that makes a user.
P=$(mktemp -d); mkdir -p $P/a/DEBIAN $P/a/opt/hello/data $P/b/DEBIAN $P/b/opt/more
printf 'Package: hello-rw\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n' > $P/a/DEBIAN/control
printf '#!/bin/sh\nset -e\nid hello >/dev/null 2>&1 || useradd --system --no-create-home hello\nchown hello:users /opt/hello/data\nchmod 2750 /opt/hello/data 2>/dev/null || chmod 750 /opt/hello/data\n' > $P/a/DEBIAN/postinst; chmod 755 $P/a/DEBIAN/postinst
echo hello > $P/a/opt/hello/file; chown 1000:1000 $P/a/opt/hello/file; chmod 640 $P/a/opt/hello/file
printf 'Package: more-rw\nVersion: 2\nArchitecture: all\nDepends: hello-rw\nMaintainer: x <x@example.org>\nDescription: y\n' > $P/b/DEBIAN/control
echo more > $P/b/opt/more/file
dpkg-deb -Znone --build $P/a $R/opt/repo/hello-rw_1_all.deb >/dev/null
dpkg-deb -Znone --build $P/b $R/opt/repo/more-rw_2_all.deb >/dev/null
( cd $R/opt/repo; for d in *.deb; do dpkg-deb -f $d; echo "Filename: ./$d"; echo "Size: $(stat -c %s $d)"; echo "SHA256: $(sha256sum $d | cut -d' ' -f1)"; echo; done > Packages )
echo 'deb [trusted=yes] file:/opt/repo ./' > $R/etc/apt/sources.list
rm -rf $P
