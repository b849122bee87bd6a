"""Object detection: boxes, anchors and their matching, the feature pyramid, RetinaNet."""
