#!/bin/sh
# Renews what /docs shows: the bundle, the style sheet and the licences of swagger-ui-dist.
#   sh kosreg/api/static/renew.sh 5.35.0
# Needs npm, tar and gzip. The same version gives the same bytes; look at the page in a browser before you commit.
set -eu
version="${1:?which version of swagger-ui-dist?}"
here="$(cd "$(dirname "$0")" && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
npm pack --silent "swagger-ui-dist@$version" >/dev/null
tar -xzf "swagger-ui-dist-$version.tgz"
for file in swagger-ui-bundle.js swagger-ui.css; do
  # the source maps stay out (2 MB), so the pointer to them goes as well
  sed 's,^//# sourceMappingURL=.*$,,; s,/\*# sourceMappingURL=[^*]*\*/,,' "package/$file" | gzip -9n >"$here/$file.gz"
done
cp package/LICENSE "$here/LICENSE.swagger-ui"
cp package/NOTICE "$here/NOTICE.swagger-ui"
cp package/swagger-ui-bundle.js.LICENSE.txt "$here/LICENSE.swagger-ui-bundle.txt"
echo "$version" >"$here/VERSION.swagger-ui"
