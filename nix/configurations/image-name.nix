# A name for an image's file that says nothing of a date or a version, so that the
# same system has the same name.
name:
{ lib, options, ... }:
{
  config =
    # nixpkgs 25.05 gave all images the same options.
    if options ? image && options.image ? baseName then
      { image.baseName = lib.mkForce name; }
    else
      lib.optionalAttrs (options ? isoImage) { isoImage.isoName = lib.mkForce "${name}.iso"; }
      // lib.optionalAttrs (options ? sdImage) { sdImage.imageName = "${name}.img"; };
}
