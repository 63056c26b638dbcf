package waybill.billing;

import javax.xml.stream.*;
import java.io.*;

public class CatalogueFeed {
    public XMLStreamReader open(InputStream feed) throws XMLStreamException {
        XMLInputFactory inputs = XMLInputFactory.newInstance();
        return inputs.createXMLStreamReader(feed);
    }

    public Object cached(InputStream in) throws Exception {
        ObjectInputStream objects = new ObjectInputStream(in);
        return objects.readObject();
    }
}
