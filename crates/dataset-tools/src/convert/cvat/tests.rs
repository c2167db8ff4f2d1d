use super::*;

/// As in CVAT's description of the form, shortened.
const EXPORT: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <id>4</id>
      <labels>
        <label><name>traffic_light</name><color>#12ae12</color><attributes></attributes></label>
        <label><name>car &amp; van</name><attributes><attribute><name>parked</name></attribute></attributes></label>
      </labels>
    </task>
    <dumped>2021-05-13 08:58:17</dumped>
  </meta>
  <image id="0" name="a/filename000.jpg" width="1600" height="1200">
    <box label="car &amp; van" source="manual" occluded="0" xtl="100.00" ytl="50.50" xbr="180.00" ybr="90.50" z_order="0">
      <attribute name="parked">true</attribute>
    </box>
    <polygon label="traffic_light" occluded="0" points="10.0,20.0;30.0,25.0;12.0,60.0" z_order="0"/>
    <box label="traffic_light" occluded="0" xtl="0.0" ytl="0.0" xbr="20.0" ybr="10.0" rotation="90.00"></box>
    <points label="car &amp; van" occluded="0" points="1.0,2.0"></points>
  </image>
  <image id="1" name="empty.jpg" width="640" height="480"></image>
</annotations>
"#;

#[test]
fn an_export_is_read() {
    let ReadDataset { dataset, left_out } = read(EXPORT).unwrap();
    assert_eq!(left_out, 1);
    let names: Vec<_> = dataset
        .categories
        .iter()
        .map(|it| (it.id, &*it.name))
        .collect();
    assert_eq!(names, [(1, "traffic_light"), (2, "car & van")]);
    let images: Vec<_> = (dataset.images.iter())
        .map(|it| (&*it.file_name, it.width, it.height))
        .collect();
    assert_eq!(
        images,
        [("a/filename000.jpg", 1600, 1200), ("empty.jpg", 640, 480)]
    );
    let boxes: Vec<_> = (dataset.annotations.iter())
        .map(|it| {
            (
                it.image_id,
                it.category_id,
                it.bbox.unwrap().map(f64::round),
            )
        })
        .collect();
    // 20 × 10 turned about its middle (10, 5).
    let expected = [
        (1, 2, [100.0, 51.0, 80.0, 40.0]),
        (1, 1, [10.0, 20.0, 20.0, 40.0]),
        (1, 1, [5.0, -5.0, 10.0, 20.0]),
    ];
    assert_eq!(boxes, expected);
}

#[test]
fn what_is_written_is_read_back() {
    let mut dataset = read(EXPORT).unwrap().dataset;
    dataset.annotations[0].score = Some(0.9);
    let (text, written) = write(&dataset).unwrap();
    assert_eq!(written, 3);
    assert!(
        text.contains("<attribute name=\"score\">0.9000</attribute>"),
        "{text}"
    );
    assert!(
        text.contains("label=\"car &amp; van\" source=\"auto\""),
        "{text}"
    );
    let back = read(&text).unwrap().dataset;
    let of = |dataset: &Dataset| {
        let annotations = dataset.annotations.iter();
        annotations
            .map(|it| (it.image_id, it.category_id, it.bbox))
            .collect::<Vec<_>>()
    };
    assert_eq!(of(&back), of(&dataset));
    assert_eq!(back.images.len(), 2);
    assert_eq!(back.categories.len(), 2);
}

#[test]
fn what_is_wrong_is_told() {
    for (from, to, told) in [
        ("</annotations>", "", "it ends inside <annotations>"),
        ("xtl=\"100.00\" ", "", "<box> has no `xtl`"),
        (
            "ytl=\"50.50\"",
            "ytl=\"high\"",
            "`a/filename000.jpg`: <box>: `ytl` is `high`",
        ),
        (
            "width=\"1600\"",
            "width=\"0\"",
            "`a/filename000.jpg`: width is 0",
        ),
        ("30.0,25.0", "30.0", "`30.0` is no point"),
        ("<image id=\"1\"", "<track id=\"1\"", "CVAT for video"),
    ] {
        let error = read(&EXPORT.replace(from, to)).err().unwrap_or_default();
        assert!(error.contains(told), "{error}");
    }
    assert!(
        read("<annotation></annotation>")
            .err()
            .unwrap()
            .contains("<annotations>")
    );
    for length in (0..EXPORT.len()).step_by(37) {
        // Cut anywhere: an error or fewer images, never a panic.
        let _ = read(&EXPORT[..length]);
    }
}
