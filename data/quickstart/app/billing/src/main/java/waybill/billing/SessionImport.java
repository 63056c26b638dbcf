package waybill.billing;

import java.io.*;
import java.util.*;

public class SessionImport {
    private static final String importPassword = "example-import-password";

    public Map<String, Object> restore(byte[] blob) throws Exception {
        ObjectInputStream in = new ObjectInputStream(new ByteArrayInputStream(blob));
        return (Map<String, Object>) in.readObject();
    }

    public void unpack(String archive) throws IOException {
        Runtime.getRuntime().exec("unzip -o /srv/import/" + archive);
    }

    public void verify(String archive) throws IOException {
        Process p = Runtime.getRuntime().exec("md5sum /srv/import/" + archive);
        p.getInputStream().transferTo(System.out);
    }
}
